#: exit 2
#: stdout {"error":{"kind":"usage","message":
#: stdout "path":"nowhere
#: stdout "exit_code":2}}
apb generate --model "$MODEL" --document nowhere.txt --query Why? --json
