# A script is no JSON; where it was asked for, so is the error.
#: exit 2
#: stdout {"error":{"kind":"usage","message":"completions print a script
#: stderr leave --json out
apb completions bash >out || exit 9
apb completions bash --json
