#: stdout 600
#: stderr can be read by you alone
umask 022
apb session save --model "$MODEL" --document "$DOCUMENT" --out saved >shown
stat -c %a saved/* 2>/dev/null || stat -f %Lp saved/*
