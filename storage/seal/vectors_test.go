package seal

// vectors of docs/FORMAT.md section 5: domain secret 070809 and zeros,
// session secret 0a and zeros, repository ID 010203 and zeros, salt 040506
// and zeros.
var vectors = map[string]string{
	"session ID":    "0fffa15519a5cdc0d6230cd28a3fd27b",
	"domain ID":     "337b316196b49a32",
	"chunk-ID key":  "f72a10c6c2e5a6ced5d8d30f5d68fe4bf2b658c639bab48f05b05881a72c1841",
	"gear key":      "15a9e6d8f2d39d59cedbfd36060fc807839e428d8fa85ba19a0aed3488e3b630",
	"segment key":   "e2fccb87266d73fd9cf5c931122066895ef409590646b5819ac014ee18ee762b",
	"contents key":  "67af34c45ac7c5b78c7bbf77d44d2f55",
	"index run key": "c3f354f841c03c21390f2554ed2c6d64",
	"root key":      "ab22d7c6e49e68ead87abef1d9c2d776",
	"frame key":     "d72665363e0f7bed1e6605ae7b24ecb6",
}
