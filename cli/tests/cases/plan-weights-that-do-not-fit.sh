# A GPU's driver alone takes more than is usable here.
#: exit 5
#: stderr weights and working memory alone take
#: stderr are usable
#: not the longest that fits is
apb plan --model "$MODEL" --tokens 1000 --device h100 --memory 0.5 >out
