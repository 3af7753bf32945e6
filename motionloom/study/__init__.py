"""Preference studies: which method's clips people prefer, asked blind (the kind of study of MIVA, appendix C.3).

study/
  key.json               which clip is of which method; never leaves the researcher
  viewer/index.html      the page, complete in itself: served, or opened from the disk
  viewer/clips/*.mp4     the clips under names that say nothing, alike in size, rate, length and bytes
  answers/*.jsonl        one file a participant, one line an answer, written through to the disk
  results.json, votes.csv   what `analyse` makes of them
"""
