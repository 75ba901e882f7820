# What does not fit is reported with the error in the report.
#: exit 5
#: stderr apb: a document of 1073741824 tokens fits no device
apb plan --model "$MODEL" --tokens 1073741824 --device h100 --json >out 2>err
code=$?
python3 - <<'PY' || exit 9
import json
report = json.loads(open("out").read())
error = report["error"]
assert (error["kind"], error["path"], error["exit_code"]) == ("memory", None, 5), error
assert "the longest that fits is" in error["message"], error
assert report["recommended"] is None and report["methods"]["full"]["fits"] is False, report
assert len(open("err").read().splitlines()) == 1
PY
apb plan --model "$MODEL" --tokens 1000 --device h100 --json | grep -q '"error"' && exit 8
cat err >&2
exit $code
