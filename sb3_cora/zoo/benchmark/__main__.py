from sb3_cora.zoo.benchmark.command import main

if __name__ == "__main__":
    main()
