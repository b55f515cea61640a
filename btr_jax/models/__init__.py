"""The reader: layers, encoder, decoder, token codecs, and the model object."""
