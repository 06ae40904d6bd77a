"""Messages as frozen nouns, and the bytes that they are on the wire. Pure code: no I/O, no Trio.

client_messages  the nouns that a client sends, and `decode` for the server
server_messages  the nouns that a server sends, and `decode_server` for the client
binary           frames of media and chunks of uploads: binary messages, of both sides
text, fields     the JSON of a text message; the rules for the fields of the runtime's own messages
slices, weight   JSON of a long text, read in pieces; how much memory the values of a text take
upload_ledger    which upload or chunk is allowed
names            types, error codes, close codes
"""
