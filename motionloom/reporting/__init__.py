"""What a report page is made of: reading results, comparing them, drawing them, writing HTML. `report.py` is the verb."""
