from eet_demo.commands.cli import main

main()
