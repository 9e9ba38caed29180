# ggml's AMX code, with a tile configuration that the compiler does not optimise away: native/amx/tile_config.h says why.
set_source_files_properties("${CMAKE_SOURCE_DIR}/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
  TARGET_DIRECTORY ggml-base
  PROPERTIES COMPILE_OPTIONS "-include;${CMAKE_SOURCE_DIR}/native/amx/tile_config.h")
