impl super::extension::Kernels for burn_flex::Flex {}
