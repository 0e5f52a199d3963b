plugins {
    alias(libs.plugins.android.application)
}

// The bundle is used where it lies: its code is compiled and its folder packed as assets, nothing is copied.
val bundle: File = rootProject.file(providers.gradleProperty("bundle").getOrElse("bundle"))
require(bundle.resolve("code/kotlin/Classifier.kt").isFile) {
    "There is no bundle with Kotlin code in $bundle. Make one with: " +
        "python -m export.tflite --int8 --bundle DIR, and name it: -Pbundle=DIR"
}

android {
    namespace = "com.example.classifier"
    compileSdk = 36
    defaultConfig {
        applicationId = "com.example.classifier"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
    }
    sourceSets.named("main") {
        kotlin.directories += bundle.resolve("code/kotlin").path
        assets.directories += bundle.path
    }
    androidResources {
        noCompress += "tflite" // LiteRT maps the file into memory
    }
}

dependencies {
    implementation(libs.activity)
    implementation(libs.camera.camera2)
    implementation(libs.camera.view)
    implementation(libs.litert)
}
