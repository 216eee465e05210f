-- ARGV from 4: what to look for, and of what:
--   versions   of channels      -> their versions
--   members    of a channel     -> its roster
--   counts     of a channel     -> {subscribers, users}
--   channels   of an app        -> name, subscribers, users, …; of names from ARGV[6] up to, but not with, ARGV[7]; ARGV[8] at most
--   online     users of an app  -> 1 or 0 for each

local what, out = ARGV[4], {}
if what == 'versions' then
  for i = 5, #ARGV do
    out[#out + 1] = version_of(ARGV[i])
  end
elseif what == 'members' then
  out = roster(ARGV[5])
elseif what == 'counts' then
  out = {total(ARGV[5]), redis.call('ZCARD', key('o:' .. ARGV[5]))}
elseif what == 'channels' then
  local app = ARGV[5]
  for _, name in ipairs(redis.call('ZRANGE', key('a:' .. app), ARGV[6], ARGV[7], 'BYLEX', 'LIMIT', 0, ARGV[8])) do
    local channel = app .. '/' .. name
    out[#out + 1] = name
    out[#out + 1] = total(channel)
    out[#out + 1] = redis.call('ZCARD', key('o:' .. channel))
  end
else
  for i = 5, #ARGV do
    out[#out + 1] = redis.call('EXISTS', key('w:' .. ARGV[i]))
  end
end
return out
