"""The pages of the site that are made from the code, so that they cannot say anything else.

No framework is loaded for them: settings, metrics, errors, rows and parsers are plain data.
"""
