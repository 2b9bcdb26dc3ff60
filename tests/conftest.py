"""Ctrl-C works in all tests: a shell ignores it in what it starts in the background, and so do its children."""
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)
