#: exit 2
#: stderr --tokens
apb bench attention --tokens 1000000000000
