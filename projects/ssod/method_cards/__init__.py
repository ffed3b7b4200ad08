"""The pictures and tables of the page about methods, made from the methods' own code."""
