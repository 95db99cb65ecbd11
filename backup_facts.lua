function one(record)
  return 1
end
