#: exit 2
#: stderr APB_LOG="apb=loud"
APB_LOG=apb=loud apb doctor
