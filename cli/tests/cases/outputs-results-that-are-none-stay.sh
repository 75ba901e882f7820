# A file of something else is not cut to nothing, newline or not.
#: exit 2
#: stderr expected the settings of an evaluation
#: stdout precious
printf 'precious text without newline' > prec.txt
apb eval niah --model "$MODEL" --tokens 900 --samples 1 --methods full --depths 50 --out prec.txt
code=$?
cat prec.txt
exit $code
