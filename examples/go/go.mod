module glimpse

go 1.19
