"""Numbers of configs that no run can do with, and that every number has bounds."""



