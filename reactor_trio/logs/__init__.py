"""Log lines: to make one cannot raise, and to write one cannot block.

values     any value -> a bounded value that JSON can hold; any text -> text without control characters
failures   any exception -> a bounded traceback
repeats    how much one place in the code may log
rendering  the last of structlog's processors: an event -> a line
logger     structlog's loggers, with methods that never raise
writer     a bounded queue of lines, and the thread that writes them
process    the log of a process: it takes over structlog, `logging`, warnings, hooks and `print`
setup      the only module that changes the configuration of structlog and `logging`
"""
