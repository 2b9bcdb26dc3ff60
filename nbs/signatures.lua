-- Names in the comments of a signature become links, which code cannot show: what stands there is the name again.
function CodeBlock(block)
  block.text = block.text:gsub('%[`([^`%]]+)`%]%(https?://[^%s)]*%)', '`%1`')
  return block
end
