"""Workers in processes of their own: their channel, the loop in the process, and the supervision in the daemon."""
