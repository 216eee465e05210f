#!lua
-- Which node has which session. KEYS: 1 the unit's fence, 2 its stamp, 3… the sessions.
-- ARGV: 1 the generation, 2 the node that asks, 3 for how many ms a session is a node's that says nothing more, 4 what it asks:
--   find   nothing else
--   claim  what is nobody's is this node's from now on
--   keep   the same, for longer where it is this node's already
--   drop   what is this node's is nobody's from now on
-- Answers whose each is; '' stands for nobody.

if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return redis.error_reply('FENCED of another generation')
end

local node, ms, asked = ARGV[2], ARGV[3], ARGV[4]
local owners = {}
for i = 3, #KEYS do
  local owner = redis.call('GET', KEYS[i]) or ''
  if asked == 'drop' then
    if owner == node then redis.call('DEL', KEYS[i]) end
  elseif asked == 'claim' and owner == '' or asked == 'keep' and (owner == '' or owner == node) then
    redis.call('SET', KEYS[i], node, 'PX', ms)
    owner = node
  end
  owners[#owners + 1] = owner
end
return owners
