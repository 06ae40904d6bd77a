"""Log lines: made so that they cannot raise, and written so that they cannot block.

values     any value -> a bounded one that JSON can hold; any text -> one that a terminal can bear
failures   any exception -> a bounded traceback
repeats    how much one place in the code may say
rendering  the last of structlog's processors: an event -> a line
logger     structlog's loggers, whose methods never raise
writer     a bounded queue and the thread that writes it
process    what goes this way in a process that serves: structlog, `logging`, warnings, hooks, `print`
setup      the only module that changes the configuration of structlog and `logging`
"""
