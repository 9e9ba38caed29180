# What the package ships: executables, the libraries they need and the CPU backends, one stripped file each, and BUILD.json.
set(LLCUDA_EXECUTABLES
  llama-server llama-cli llama-bench llama-quantize llama-embedding llama-perplexity llama-gguf-split
  llama-imatrix llama-batched-bench llama-fit-params
  llcuda-guard)

set(LLCUDA_LIBRARIES ggml-base ggml llama llama-common mtmd)
foreach(executable IN LISTS LLCUDA_EXECUTABLES)
  if(TARGET ${executable}-impl)
    list(APPEND LLCUDA_LIBRARIES ${executable}-impl)
  endif()
endforeach()

get_property(ggml_targets DIRECTORY vendor/llama.cpp/ggml/src PROPERTY BUILDSYSTEM_TARGETS)
foreach(target IN LISTS ggml_targets)
  get_target_property(type ${target} TYPE)
  if(target MATCHES "^ggml-cpu" AND type STREQUAL "MODULE_LIBRARY")
    list(APPEND LLCUDA_CPU_BACKENDS ${target})
  endif()
endforeach()

set(LLCUDA_TARGETS ${LLCUDA_EXECUTABLES} ${LLCUDA_LIBRARIES} ${LLCUDA_CPU_BACKENDS})
add_custom_target(llcuda ALL DEPENDS ${LLCUDA_TARGETS})

# PIE for every executable; the libraries keep upstream's own flags.
set_target_properties(${LLCUDA_EXECUTABLES} PROPERTIES POSITION_INDEPENDENT_CODE ON)
# Upstream sets public headers on these, which would be installed beside the libraries.
set_target_properties(ggml llama mtmd PROPERTIES PUBLIC_HEADER "" PRIVATE_HEADER "")

install(TARGETS ${LLCUDA_TARGETS}
  RUNTIME DESTINATION . COMPONENT llcuda
  LIBRARY DESTINATION . COMPONENT llcuda)

set(LLCUDA_C_FLAGS "${CMAKE_C_FLAGS} ${CMAKE_C_FLAGS_RELEASE}")
set(LLCUDA_CXX_FLAGS "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_RELEASE}")
string(STRIP "${LLCUDA_C_FLAGS}" LLCUDA_C_FLAGS)
string(STRIP "${LLCUDA_CXX_FLAGS}" LLCUDA_CXX_FLAGS)
json_list(LLCUDA_VARIANTS_JSON ${LLCUDA_CPU_BACKENDS})
json_list(LLCUDA_FEATURES_JSON ${LLCUDA_CPU_FEATURES})
configure_file(cmake/facts.json.in "${CMAKE_CURRENT_BINARY_DIR}/facts.json" @ONLY)
install_record(. facts.json)
