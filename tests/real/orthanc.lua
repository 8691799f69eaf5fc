-- Route the images of a stable study to the node: each series once, again when it has grown.
-- Results that come back make the study stable again; they are no CT or MR, so they never loop.
local WANTED = { CT = true, MR = true }

local function already(series)
  for _, name in ipairs(ParseJson(RestApiGet('/series/' .. series .. '/metadata'))) do
    if name == 'routed' then
      return RestApiGet('/series/' .. series .. '/metadata/routed')
    end
  end
  return nil
end

function OnStableStudy(studyId, tags, metadata)
  local due = {}
  for _, series in ipairs(ParseJson(RestApiGet('/studies/' .. studyId .. '/series'))) do
    local count = tostring(#series['Instances'])
    if WANTED[series['MainDicomTags']['Modality']] and already(series['ID']) ~= count then
      RestApiPut('/series/' .. series['ID'] .. '/metadata/routed', count)
      table.insert(due, series['ID'])
    end
  end
  if #due > 0 then
    RestApiPost('/modalities/overread/store', DumpJson({ Resources = due, Synchronous = false }, true))
  end
end
