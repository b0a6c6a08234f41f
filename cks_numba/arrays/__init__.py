"""The caller's arrays of any library and layout, brought to the form that the backends compute on."""
