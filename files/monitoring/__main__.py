"""Run the folder: `python3 -I FOLDER CONFIGURATION`."""

from alert_log import main

main()
