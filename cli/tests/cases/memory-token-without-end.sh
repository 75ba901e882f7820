#: exit 3
#: mebibytes 1500
#: seconds 30
mkdir hf
ln -s /dev/zero hf/token
HF_ENDPOINT=http://127.0.0.1:9 HF_HOME=$PWD/hf apb fetch org/name --source hub
