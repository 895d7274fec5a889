from eet_demo.cli import main

main()
