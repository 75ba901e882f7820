#: exit 2
#: stdout {"error":{"kind":"usage","message":
#: stderr --nonsense
apb generate --json --nonsense
