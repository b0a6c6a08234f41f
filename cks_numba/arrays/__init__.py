"""The caller's arrays: of whichever library and layout they are, taken to the form that the backends compute on."""
