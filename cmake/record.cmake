# BUILD.json is written when the files lie in their final place, stripped: it holds the hash of what is shipped.
function(json_list out)
  set(items "")
  foreach(item IN LISTS ARGN)
    string(APPEND items "\"${item}\", ")
  endforeach()
  string(REGEX REPLACE ", $" "" items "${items}")
  set(${out} "[${items}]" PARENT_SCOPE)
endfunction()

list(TRANSFORM LLCUDA_PATCHES REPLACE ".*/" "" OUTPUT_VARIABLE patch_names)
json_list(LLCUDA_PATCHES_JSON ${patch_names})

# Record the installed folder (relative to the prefix) with the facts of that file in the build folder.
function(install_record folder facts)
  install(CODE "
    execute_process(
      COMMAND \"${Python3_EXECUTABLE}\" prepare_binaries.py record
        \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${folder}\" --facts \"${CMAKE_CURRENT_BINARY_DIR}/${facts}\"
      WORKING_DIRECTORY \"${CMAKE_CURRENT_SOURCE_DIR}\"
      COMMAND_ERROR_IS_FATAL ANY)"
    COMPONENT llcuda)
endfunction()
