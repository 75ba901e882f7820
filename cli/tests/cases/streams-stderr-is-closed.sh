#: exit 2
apb generate --model nowhere/at/all --document "$DOCUMENT" --query Why? 2>&-
