"""Frames and samples <-> what crosses the wire. Pure functions; torch and simplejpeg only when used."""
