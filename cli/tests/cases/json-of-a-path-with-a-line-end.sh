# The path is exact, the message on one line.
#: exit 2
#: stdout "message":"cannot read the document x\\nwarning: forged.txt:
#: stdout "path":"x\nwarning: forged.txt","exit_code":2}}
#: stderr apb: cannot read the document x\nwarning: forged.txt:
apb generate --model "$MODEL" --document "$(printf 'x\nwarning: forged.txt')" --query Why? --json
