package walk_test

func walkDenied(string) int { return 0 }
