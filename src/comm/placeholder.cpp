// comm
