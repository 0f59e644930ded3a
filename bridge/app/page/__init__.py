"""Page for browsers on the ops port: the operations of the API as HTML, made by the server."""
