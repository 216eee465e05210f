-- Takes the next jobs.
-- ARGV: 4 how many at most, 5 for how many ms, 6 who asks. Answers the time, when the next delay or lease ends, and the jobs.
local jobs = {}
for _ = 1, tonumber(ARGV[4]) do
  local first = redis.call('ZRANGE', READY, 0, 0)[1]
  if not first then break end
  local row = read(first:sub(-16))
  row.lease, row.owner = number(), ARGV[6]
  enter(row, 'c', now + tonumber(ARGV[5]), now)
  jobs[#jobs + 1] = described(row)
end
tally('claimed', #jobs)
return done({ now, next_end(), jobs })
