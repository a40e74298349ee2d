"""What travels: capture, bundle, codecs, results; `runner` is the one file that runs remotely."""
