"use strict";
// Clips of a row play as one: the longest leads, the others follow it, and all start over together.
(() => {
  const rows = [...document.querySelectorAll(".case")];
  const playing = new Map(); // row -> id of its animation frame
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const screens = (row) => [...row.querySelectorAll("video")];
  const leader = (row) =>
    screens(row).reduce((best, video) => ((video.duration || 0) > (best?.duration || 0) ? video : best), null);
  const step = (video) => 1 / (Number(video.dataset.fps) || 8);

  function seek(row, seconds) {
    for (const video of screens(row)) {
      const last = Math.max(0, (video.duration || 0) - step(video) / 2);
      video.currentTime = Math.min(Math.max(0, seconds), last);
    }
    draw(row);
  }

  function draw(row) {
    const lead = leader(row);
    const bar = row.querySelector("input[type=range]");
    if (!lead || !bar) return;
    const frame = Math.floor(lead.currentTime / step(lead) + 0.01);
    bar.max = String(lead.duration || 1);
    bar.value = String(lead.currentTime);
    bar.setAttribute("aria-valuetext", `frame ${frame}`);
    row.querySelector("output").textContent = `frame ${frame} · ${lead.currentTime.toFixed(2)} s`;
  }

  function follow(row) {
    const lead = leader(row);
    if (!lead) return;
    if (lead.ended || lead.currentTime >= lead.duration - 0.001) {
      for (const video of screens(row)) {
        video.currentTime = 0;
        video.play().catch(() => {});
      }
    } else {
      for (const video of screens(row)) {
        const here = Math.min(lead.currentTime, video.duration || 0);
        if (video !== lead && Math.abs(video.currentTime - here) > step(video)) video.currentTime = here;
      }
    }
    draw(row);
    playing.set(row, requestAnimationFrame(() => follow(row)));
  }

  function play(row) {
    if (playing.has(row) || !screens(row).length) return;
    const lead = leader(row);
    if (lead) seek(row, lead.ended ? 0 : lead.currentTime);
    for (const video of screens(row)) video.play().catch(() => {});
    playing.set(row, requestAnimationFrame(() => follow(row)));
    label(row, true);
  }

  function pause(row) {
    cancelAnimationFrame(playing.get(row));
    playing.delete(row);
    for (const video of screens(row)) video.pause();
    label(row, false);
    draw(row);
  }

  function label(row, on) {
    const button = row.querySelector(".player button");
    if (!button) return;
    button.textContent = on ? "Pause" : "Play";
    button.setAttribute("aria-pressed", String(on));
  }

  const toggle = (row) => (playing.has(row) ? pause(row) : play(row));

  for (const row of rows) {
    row.querySelector(".player button")?.addEventListener("click", () => toggle(row));
    row.querySelector("input[type=range]")?.addEventListener("input", (event) => {
      pause(row);
      seek(row, Number(event.target.value));
    });
    for (const video of screens(row)) {
      video.addEventListener("loadedmetadata", () => draw(row));
      video.addEventListener("seeked", () => draw(row));
    }
    row.addEventListener("keydown", (event) => {
      if (event.target !== row) return;
      const lead = leader(row);
      if (event.key === " ") toggle(row);
      else if (lead && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
        pause(row);
        const by = event.key === "ArrowRight" ? 1 : -1;
        seek(row, (Math.floor(lead.currentTime / step(lead) + 0.01) + by + 0.5) * step(lead));
      } else return;
      event.preventDefault();
    });
  }

  const all = document.querySelector("#play-all");
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries)
      if (all?.getAttribute("aria-pressed") === "true") isIntersecting ? play(target) : pause(target);
  });
  rows.forEach((row) => seen.observe(row));
  all?.addEventListener("click", () => {
    const on = all.getAttribute("aria-pressed") !== "true";
    all.setAttribute("aria-pressed", String(on));
    all.textContent = on ? "Pause all" : "Play what is on screen";
    for (const row of rows) {
      const box = row.getBoundingClientRect();
      on && box.bottom > 0 && box.top < innerHeight ? play(row) : pause(row);
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
    if (event.key !== "j" && event.key !== "k") return;
    const shown = [...document.querySelectorAll(".case")];
    const at = shown.findIndex((row) => row.contains(document.activeElement));
    const next = shown[event.key === "j" ? Math.min(at + 1, shown.length - 1) : Math.max(at - 1, 0)];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "start", behavior: still.matches ? "auto" : "smooth" });
  });

  // Rows in another order: worst first by the chosen value.
  const order = document.querySelector("#order");
  order?.addEventListener("change", () => {
    const worst = (row) => Number(JSON.parse(row.dataset.worst)[order.value] ?? -1);
    const parent = rows[0].parentElement;
    [...rows].sort((a, b) => worst(b) - worst(a)).forEach((row) => parent.append(row));
  });

  // Tables whose head has buttons sort by that column.
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (line) => line.cells[head.cellIndex].dataset.value ?? line.cells[head.cellIndex].textContent;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const both = Number(x) - Number(y);
        return Number.isNaN(both) ? x.localeCompare(y) : both;
      };
      [...body.rows].sort((a, b) => compare(a, b) * (up ? 1 : -1)).forEach((line) => body.append(line));
    });
  }

  const theme = document.querySelector("#theme");
  theme?.addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
      (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });

  addEventListener("beforeprint", () => {
    rows.forEach(pause);
    for (const closed of document.querySelectorAll("details:not([open], .wide)")) {
      closed.open = true;
      closed.dataset.closed = "";
    }
  });
  addEventListener("afterprint", () => {
    for (const opened of document.querySelectorAll("details[data-closed]")) {
      opened.open = false;
      delete opened.dataset.closed;
    }
  });
})();
