"""The router inside what people already run: each module on the public API alone, its library imported when used."""
