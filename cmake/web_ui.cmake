# llama.cpp's web UI, which the gateway serves at /chat: built with npm, which takes minutes, until its sources change.
set(LLCUDA_WEB_UI "auto" CACHE STRING "The page /chat: 'on', 'off', or 'auto': on where npm can build it")
set_property(CACHE LLCUDA_WEB_UI PROPERTY STRINGS auto on off)
if(NOT LLCUDA_WEB_UI MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "LLCUDA_WEB_UI is '${LLCUDA_WEB_UI}'; it must be 'auto', 'on' or 'off'")
endif()

set(LLCUDA_WEB_UI_BUILT OFF)
if(NOT LLCUDA_WEB_UI STREQUAL "off")
  set(archive "${CMAKE_CURRENT_BINARY_DIR}/web_ui/web_ui.zip")
  # With 'auto' it is kept beside ccache's objects, so that a second clone builds none; a release builds its own.
  set(kept "$ENV{XDG_CACHE_HOME}")
  if(kept STREQUAL "" AND DEFINED ENV{HOME})
    set(kept "$ENV{HOME}/.cache")
  endif()
  if(LLCUDA_WEB_UI STREQUAL "on" OR kept STREQUAL "")
    set(kept "${CMAKE_CURRENT_BINARY_DIR}")
  else()
    string(APPEND kept "/llcuda-build")
  endif()
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" prepare_binaries.py web-ui "${kept}/web_ui"
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    RESULT_VARIABLE result
    ERROR_VARIABLE problem
    ERROR_STRIP_TRAILING_WHITESPACE)
  if(result EQUAL 0)
    set(LLCUDA_WEB_UI_BUILT ON)
    message(STATUS "Web UI: built")
    configure_file("${kept}/web_ui/web_ui.zip" "${archive}" COPYONLY)
    install(FILES "${archive}" DESTINATION . COMPONENT llcuda)
  elseif(LLCUDA_WEB_UI STREQUAL "on")
    message(FATAL_ERROR "Web UI: ${problem}")
  else()
    message(STATUS "Web UI: not built, so that `llcuda serve` has no page /chat (${problem})")
  endif()
endif()
