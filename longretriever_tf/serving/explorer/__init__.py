"""The page in which a person looks at histories and at what is retrieved for them."""
