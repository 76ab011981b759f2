// moe
