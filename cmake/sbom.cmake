# The bill of materials goes beside the wheel's metadata; a build outside of a wheel has no such place.
if(DEFINED SKBUILD_METADATA_DIR)
  if(GGML_CUDA)
    set(toolkit --toolkit "${CUDAToolkit_VERSION}")
  endif()
  if(LLCUDA_WEB_UI_BUILT)
    set(web_ui --web-ui "${CMAKE_CURRENT_BINARY_DIR}/web_ui/web_ui.zip")
  endif()
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" prepare_binaries.py sbom "${CMAKE_CURRENT_BINARY_DIR}/llama.cpp.cdx.json"
      ${toolkit} ${web_ui}
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    COMMAND_ERROR_IS_FATAL ANY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/llama.cpp.cdx.json"
    DESTINATION "${SKBUILD_METADATA_DIR}/sboms" COMPONENT llcuda)
endif()
