# Read by CMake within llama.cpp's own project: of llama.cpp its library alone is built, and not what its programs share,
# which takes half of the time.
set(LLAMA_BUILD_COMMON OFF)
