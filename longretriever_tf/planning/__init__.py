"""How much a log of some size takes: disk, cores, memory, hours, from models fitted on this project's measurements."""
