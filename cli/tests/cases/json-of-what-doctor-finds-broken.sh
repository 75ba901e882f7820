# One object: the report, with the error in it.
#: exit 3
#: stdout {"checks":
#: stdout "error":{"kind":"environment"
#: stdout one line
#: stderr something that apb needs is broken
env -u HOME -u XDG_CACHE_HOME -u APB_CACHE -u HF_HOME apb doctor --json >out
code=$?
cat out
[ "$(wc -l <out)" -eq 1 ] && echo 'one line'
exit $code
